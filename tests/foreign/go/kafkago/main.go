// segmentio/kafka-go: its Writer chooses partitions in turn unless it has a Balancer.
package main

import (
	"context"
	"time"

	"github.com/segmentio/kafka-go"

	"readstates/tests/foreign/common"
)

func main() {
	plan := common.Read()
	for number, step := range plan.Steps {
		writer := &kafka.Writer{
			Addr:         kafka.TCP(plan.Bootstrap),
			Topic:        step.Topic,
			BatchTimeout: 10 * time.Millisecond,
		}
		if step.Setting {
			writer.Balancer = kafka.Murmur2Balancer{}
		}
		messages := make([]kafka.Message, 0, len(step.Records))
		for id, record := range step.Records {
			message := kafka.Message{Key: []byte(record.Key), Value: []byte(record.Value)}
			for name, value := range step.Headers(id) {
				message.Headers = append(message.Headers, kafka.Header{Key: name, Value: value})
			}
			messages = append(messages, message)
		}
		common.Check(writer.WriteMessages(context.Background(), messages...))
		common.Check(writer.Close())
		if step.Replies != "" {
			read(plan.Bootstrap, step, step.Expect(number))
		}
	}
}

// The topic of replies has one partition: a reader without a group reads it from its start.
func read(bootstrap string, step common.Step, replies *common.Replies) {
	reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{bootstrap}, Topic: step.Replies})
	for replies.Missing() {
		ctx, cancel := context.WithTimeout(context.Background(), common.ReplyTimeout)
		message, err := reader.ReadMessage(ctx)
		cancel()
		common.Check(err)
		headers := map[string][]byte{}
		for _, header := range message.Headers {
			headers[header.Key] = header.Value
		}
		replies.Take(headers, message.Value)
	}
	common.Check(reader.Close())
}
