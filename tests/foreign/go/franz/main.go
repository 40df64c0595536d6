// franz-go: its default partitioner is the Java client's, so there is nothing to set.
package main

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"readstates/tests/foreign/common"
)

func main() {
	plan := common.Read()
	for number, step := range plan.Steps {
		options := []kgo.Opt{kgo.SeedBrokers(plan.Bootstrap)}
		if step.Replies != "" {
			options = append(options, kgo.ConsumeTopics(step.Replies),
				kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		}
		client, err := kgo.NewClient(options...)
		common.Check(err)
		records := make([]*kgo.Record, 0, len(step.Records))
		for id, record := range step.Records {
			made := &kgo.Record{Topic: step.Topic, Key: []byte(record.Key), Value: []byte(record.Value)}
			for name, value := range step.Headers(id) {
				made.Headers = append(made.Headers, kgo.RecordHeader{Key: name, Value: value})
			}
			records = append(records, made)
		}
		common.Check(client.ProduceSync(context.Background(), records...).FirstErr())
		if step.Replies != "" {
			read(client, step.Expect(number))
		}
		client.Close()
	}
}

func read(client *kgo.Client, replies *common.Replies) {
	for replies.Missing() {
		ctx, cancel := context.WithTimeout(context.Background(), common.ReplyTimeout)
		client.PollFetches(ctx).EachRecord(func(record *kgo.Record) {
			headers := map[string][]byte{}
			for _, header := range record.Headers {
				headers[header.Key] = header.Value
			}
			replies.Take(headers, record.Value)
		})
		cancel()
	}
}
