"""Jobs: things that a node does in the background over many turns of the loop, written as generators.

Decides: how a job pauses, asks another node and gets its answer, and what ends it.  Leaves to others: what jobs do.

A job yields a number to pause for so many seconds, or a request to be answered by one node: a message whose number is
filled in here.  It gets the answer, or None if there will be none: the link is lost, the answer is REFUSED, or it did
not come in time.  A malformed answer ends the job, and the link that it came over.  What else a job raises reaches the
loop's exception handler, like an exception of any handler.

A job is no task: nothing awaits it, a stopped node just never resumes it, and it needs the loop's timers only.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from kvclient.wire import messages as m
from kvclient.wire.frames import Message
from kvnode.runtime import Runtime
from kvnode.service.exchange import Exchanges

ANSWER_S = 120.0
"""How long an answer may take; the other node may have to read a partition and to wait for its repair budget."""

Steps = Generator["float | Message", "Message | None", None]


class Job:
    """One job; `index` is the node that its requests go to."""

    __slots__ = ("_generator", "_jobs", "deadline_s", "index", "number", "on_done")

    def __init__(self, jobs: Jobs, index: int, generator: Steps, on_done: Callable[[], None]) -> None:
        self._jobs = jobs
        self._generator = generator
        self.index = index
        self.number = 0
        self.deadline_s = 0.0
        self.on_done = on_done

    def on_reply(self, index: int, message: Message) -> None:
        """Take an answer."""
        if index == self.index:
            self._answered(None if message[0] == m.REFUSED else message)

    def on_lost(self, index: int) -> None:
        """Take the loss of a link."""
        if index == self.index:
            self._answered(None)

    def _answered(self, message: Message | None) -> None:
        self._jobs.close(self)
        self.resume(message)

    def expire(self) -> None:
        """Give up waiting for an answer."""
        self._answered(None)

    def resume(self, answer: Message | None = None) -> None:
        """Go on to the next step."""
        if self._jobs.is_stopped:
            return
        try:
            step = self._generator.send(answer)
        except StopIteration:
            self.on_done()
            return
        except m.MessageError:  # the link is closed with it, and the job is over, like one without an answer
            self.on_done()
            raise
        if isinstance(step, float):
            self._jobs.runtime.timers.call_later(step, self.resume)
        else:
            self._jobs.ask(self, step)


class Jobs:
    """The jobs of one node."""

    def __init__(self, exchanges: Exchanges, runtime: Runtime) -> None:
        self.runtime = runtime
        self.is_stopped = False
        self.sent_bytes = 0
        self.sent_messages = 0
        self._exchanges = exchanges
        self._waiting: dict[int, Job] = {}

    def start(self, index: int, generator: Steps, on_done: Callable[[], None]) -> None:
        """Start a job in the next turn of the loop."""
        self.runtime.timers.call_soon(Job(self, index, generator, on_done).resume)

    def ask(self, job: Job, request: Message) -> None:
        """Send a job's request; answered with None, in a later turn, if it cannot be sent."""
        exchanges = self._exchanges
        job.number = number = exchanges.begin(job)
        link = exchanges.links[job.index]
        if link is not None and link.send((request[0], number, *request[2:])):
            self.count(request)
            job.deadline_s = self.runtime.clock.monotonic_s() + ANSWER_S
            self._waiting[number] = job
        else:
            exchanges.end(number)
            self.runtime.timers.call_soon(job.resume)

    def close(self, job: Job) -> None:
        """Forget a request."""
        self._exchanges.end(job.number)
        self._waiting.pop(job.number, None)

    def count(self, message: Message) -> None:
        """Count a message that was sent."""
        self.sent_messages += 1
        self.sent_bytes += size_of(message)

    def sweep(self, now_s: float) -> None:
        """End the waiting of jobs that have waited long enough."""
        for job in [job for job in self._waiting.values() if job.deadline_s < now_s]:
            job.expire()

    def stop(self) -> None:
        """Resume no job any more."""
        self.is_stopped = True


def size_of(message: Message) -> int:
    """Return about how many bytes a message takes on the wire."""
    total = 0
    for field in message:
        if isinstance(field, bytes):
            total += len(field) + 2
        elif isinstance(field, list):
            total += sum(len(part) + 2 for part in field) + 3
        else:
            total += 5 if isinstance(field, int) and field > 255 else 2
    return total
