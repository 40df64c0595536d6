// What the Node programs share: the steps to do, and replies as JSON lines.
import { readFileSync } from 'node:fs'

export const { bootstrap, steps } = JSON.parse(readFileSync(process.argv[2], 'utf8'))
export const REPLY_TIMEOUT_MS = 60_000

// A step sends its records to a topic. Where it names a topic of replies, it waits for one reply to
// each record: `id` is the correlation ID, the number of the record.
export const headersOf = (step, id) =>
  step.replies ? { kafka_replyTopic: step.replies, kafka_correlationId: String(id) } : undefined

export class Replies {
  constructor(number, step) {
    this.number = number
    this.wanted = new Set(step.records.keys())
    this.all = new Promise((resolve, reject) => {
      this.done = resolve
      setTimeout(() => reject(new Error(`no reply to ${[...this.wanted]}`)), REPLY_TIMEOUT_MS).unref()
    })
  }

  take(correlationId, value, error) {
    const record = Number(correlationId)
    if (!this.wanted.delete(record)) return
    const line = { step: this.number, record, error: error ? String(error) : null, reply: String(value) }
    console.log(JSON.stringify(line))
    if (this.wanted.size === 0) this.done()
  }
}

// The clients keep the process alive. A pipe may still hold lines that were not taken: without the
// wait for them the last replies would be lost.
export const finish = () => process.stdout.write('', () => process.exit(0))
