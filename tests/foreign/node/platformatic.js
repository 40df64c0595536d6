// @platformatic/kafka: its default takes murmur2 without Java's mask.
import {
  compatibilityPartitioner,
  Consumer,
  MessagesStreamModes,
  Producer,
  stringSerializers
} from '@platformatic/kafka'
import { bootstrap, finish, headersOf, Replies, steps } from './common.js'

const client = { clientId: 'foreign', bootstrapBrokers: bootstrap.split(',') }
for (const [number, step] of steps.entries()) {
  const replies = new Replies(number, step)
  if (step.replies) {
    const consumer = new Consumer({ ...client, groupId: `foreign-${step.topic}-${process.pid}` })
    const stream = await consumer.consume({
      topics: [step.replies],
      mode: MessagesStreamModes.EARLIEST
    })
    stream.on('data', ({ headers, value }) => {
      const all = new Map([...headers].map(([name, raw]) => [String(name), raw]))
      replies.take(all.get('kafka_correlationId'), value, all.get('read-states-error'))
    })
  }
  const setting = step.setting ? { partitioner: compatibilityPartitioner } : {}
  const producer = new Producer({ ...client, serializers: stringSerializers, ...setting })
  const messages = step.records.map((record, id) => ({
    topic: step.topic,
    ...record,
    headers: headersOf(step, id)
  }))
  await producer.send({ messages })
  if (step.replies) await replies.all
  await producer.close()
}
finish()
