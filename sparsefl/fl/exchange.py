"""What server and clients tell each other before the first round, for methods that prepare."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sparsefl.fl.batches import Dataset
from sparsefl.fl.method import Client, Method, Task
from sparsefl.fl.training import Loss, seeded
from sparsefl.random import generator

_logger = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Client, Dataset, bytes], bytes]


@dataclass
class Exchange:
    """The server's line to its clients while a method prepares; every byte on it is counted.

    One resident client, built from the task alone (``new_client(task, None)``), stands in for all
    in turn: what a message does not overwrite in its model is what the client before has left.

    Attributes:
        method: Whose clients they are.
        task: What both sides agreed on.
        datasets: Training data of each client.
        devs: Development data of each, used instead where a client owns any.
        draw: Draws the clients of a round from a stream.
        loss: What clients minimise, of outputs and labels.
        batch_size: Examples a step.
        downlink_bytes: What has been sent to clients.
        uplink_bytes: What they have sent.
    """

    method: Method
    task: Task
    datasets: Sequence[Dataset]
    devs: Sequence[Dataset]
    draw: Callable[[str], Iterable[int]]
    loss: Loss
    batch_size: int
    downlink_bytes: int = 0
    uplink_bytes: int = 0
    _resident: Client | None = None
    _asked: int = 0
    _drawn: int = 0

    def cohort(self) -> list[int]:
        """Draw clients as a round does, from a stream of the set-up's own; each call draws anew."""
        self._drawn += 1
        return list(self.draw(f"cohort {self._drawn} of the set-up"))

    def examples(self, client: int) -> int:
        """Return the size of the dataset that a client works on."""
        return len(self._dataset(client))

    def ask(
        self,
        clients: Iterable[int],
        message: bytes,
        work: Work,
        check: Callable[[bytes], object] = len,
    ) -> dict[int, bytes]:
        """Send a message to clients, let each work on it, and collect what they answer.

        A client that raises, or whose answer is refused, is lost and the others go on. Whatever
        ``work`` draws at random comes from a stream of the client's own.

        Args:
            clients: Their numbers.
            message: What each gets, encoded.
            work: ``(client, dataset, message) -> answer``, encoded. The dataset is the client's
                development data, its training data where it owns none.
            check: Called with each answer on the server's side; what it raises refuses the answer.

        Returns:
            The answers by client, of those that were not lost.

        Raises:
            RuntimeError: if all are lost; the last failure is its cause.
        """
        self._asked += 1
        answers: dict[int, bytes] = {}
        failure: Exception | None = None
        for client in clients:
            self.downlink_bytes += len(message)
            try:
                answer = self._answer(client, message, work)
                self.uplink_bytes += len(answer)
                check(answer)
                answers[client] = answer
            except Exception as error:  # whatever a client's data or model raises
                _logger.warning("set-up message %d lost client %d: %s", self._asked, client, error)
                failure = error
        if not answers:
            raise RuntimeError(f"no client could answer in the set-up: {failure}") from failure
        return answers

    def _answer(self, client: int, message: bytes, work: Work) -> bytes:
        if self._resident is None:
            self._resident = self.method.new_client(self.task, None)
        draws = generator(self.task.seed, f"client {client} in the set-up, message {self._asked}")
        with seeded(int(draws.integers(2**62))):
            answer = work(self._resident, self._dataset(client), message)
        if not isinstance(answer, bytes):
            raise TypeError(f"a client must answer in bytes, it gave {type(answer).__name__}")
        return answer

    def _dataset(self, client: int) -> Dataset:
        return judging(client, self.devs, self.datasets)


def judging(client: int, devs: Sequence[Dataset], datasets: Sequence[Dataset]) -> Dataset:
    """Return a client's development data, or its training data where it owns none."""
    own = devs[client] if devs else ()
    return own if len(own) > 0 else datasets[client]
