// IBM/sarama: its default is FNV-1a, and it has no murmur2: a program brings its own hash.
package main

import (
	"github.com/IBM/sarama"

	"readstates/tests/foreign/common"
)

func main() {
	plan := common.Read()
	brokers := []string{plan.Bootstrap}
	for number, step := range plan.Steps {
		config := sarama.NewConfig()
		config.Producer.Return.Successes = true
		if step.Setting {
			config.Producer.Partitioner = sarama.NewCustomPartitioner(
				sarama.WithAbsFirst(), // the mask; without it the sign is dropped after the modulo
				sarama.WithCustomHashFunction(newMurmur2),
			)
		}
		producer, err := sarama.NewSyncProducer(brokers, config)
		common.Check(err)
		messages := make([]*sarama.ProducerMessage, 0, len(step.Records))
		for id, record := range step.Records {
			message := &sarama.ProducerMessage{
				Topic: step.Topic,
				Key:   sarama.StringEncoder(record.Key),
				Value: sarama.StringEncoder(record.Value),
			}
			for name, value := range step.Headers(id) {
				header := sarama.RecordHeader{Key: []byte(name), Value: value}
				message.Headers = append(message.Headers, header)
			}
			messages = append(messages, message)
		}
		common.Check(producer.SendMessages(messages))
		common.Check(producer.Close())
		if step.Replies != "" {
			read(brokers, config, step, step.Expect(number))
		}
	}
}

// The topic of replies has one partition.
func read(brokers []string, config *sarama.Config, step common.Step, replies *common.Replies) {
	consumer, err := sarama.NewConsumer(brokers, config)
	common.Check(err)
	partition, err := consumer.ConsumePartition(step.Replies, 0, sarama.OffsetOldest)
	common.Check(err)
	for replies.Missing() {
		message := <-partition.Messages()
		headers := map[string][]byte{}
		for _, header := range message.Headers {
			headers[string(header.Key)] = header.Value
		}
		replies.Take(headers, message.Value)
	}
	common.Check(partition.Close())
	common.Check(consumer.Close())
}
