// kafkajs: its default partitioner is the Java client's, so there is nothing to set.
import kafkajs from 'kafkajs'
import { bootstrap, finish, headersOf, Replies, steps } from './common.js'

const kafka = new kafkajs.Kafka({
  brokers: bootstrap.split(','),
  logLevel: kafkajs.logLevel.ERROR
})
for (const [number, step] of steps.entries()) {
  const replies = new Replies(number, step)
  const consumer = kafka.consumer({ groupId: `foreign-${step.topic}-${process.pid}` })
  if (step.replies) {
    await consumer.connect()
    await consumer.subscribe({ topic: step.replies, fromBeginning: true })
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
