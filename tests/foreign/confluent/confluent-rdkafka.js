// @confluentinc/kafka-javascript, the API of librdkafka: CRC32 unless `partitioner` is set.
import { once } from 'node:events'
import rdkafka from '@confluentinc/kafka-javascript'
import { bootstrap, finish, headersOf, Replies, steps } from '../node/common.js'

const config = { 'bootstrap.servers': bootstrap }
for (const [number, step] of steps.entries()) {
  const replies = new Replies(number, step)
  const group = { 'group.id': `foreign-${step.topic}-${process.pid}` }
  const consumer = new rdkafka.KafkaConsumer(
    { ...config, ...group },
    { 'auto.offset.reset': 'earliest' }
  )
  if (step.replies) {
    consumer.connect()
    await once(consumer, 'ready')
    consumer.on('data', ({ headers, value }) => {
      const all = Object.assign({}, ...headers)
      replies.take(all.kafka_correlationId, value, all['read-states-error'])
    })
    consumer.subscribe([step.replies])
    consumer.consume()
  }
  const setting = step.setting ? { partitioner: 'murmur2_random' } : {}
  const producer = new rdkafka.Producer({ ...config }, setting)
  producer.connect()
  await once(producer, 'ready')
  for (const [id, { key, value }] of step.records.entries()) {
    const headers = Object.entries(headersOf(step, id) ?? {}).map(([name, text]) => ({ [name]: text }))
    producer.produce(step.topic, null, Buffer.from(value), key, Date.now(), undefined, headers)
  }
  await new Promise((resolve, reject) =>
    producer.flush(30_000, (error) => (error ? reject(error) : resolve()))
  )
  if (step.replies) await replies.all
}
finish()
