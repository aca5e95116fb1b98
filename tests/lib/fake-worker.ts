// A worker that does what a test says.

import type { WorkerHandle } from '../../dist/lib/platform.js'
import type { Reply, Request } from '../../dist/lib/protocol.js'

export class FakeWorker implements WorkerHandle {
  readonly sent: Request[] = []
  terminated = false
  held = false
  reply: (reply: Reply) => void = () => undefined
  fail: (reason: string) => void = () => undefined
  post(request: Request): void {
    this.sent.push(request)
  }
  listen(receive: (reply: Reply) => void, failed: (reason: string) => void): void {
    this.reply = receive
    this.fail = failed
  }
  terminate(): void {
    this.terminated = true
  }
  hold(busy: boolean): void {
    this.held = busy
  }
}
