// @confluentinc/kafka-javascript, the API like kafkajs: it sets murmur2_random itself.
import confluent from '@confluentinc/kafka-javascript'
import { bootstrap, finish, headersOf, Replies, steps } from '../node/common.js'

const { Kafka, logLevel } = confluent.KafkaJS
const kafka = new Kafka({ kafkaJS: { brokers: bootstrap.split(','), logLevel: logLevel.ERROR } })
for (const [number, step] of steps.entries()) {
  const replies = new Replies(number, step)
  const groupId = `foreign-${step.topic}-${process.pid}`
  const consumer = kafka.consumer({ kafkaJS: { groupId, fromBeginning: true } })
  if (step.replies) {
    await consumer.connect()
    await consumer.subscribe({ topic: step.replies })
    await consumer.run({
      eachMessage: async ({ message: { headers, value } }) =>
        replies.take(headers.kafka_correlationId, value, headers['read-states-error'])
    })
  }
  const producer = kafka.producer()
  await producer.connect()
  const messages = step.records.map((record, id) => ({ ...record, headers: headersOf(step, id) }))
  await producer.send({ topic: step.topic, messages })
  if (step.replies) {
    await replies.all
    await consumer.disconnect()
  }
  await producer.disconnect()
}
finish()
