"""Runs stages in children that it forks, so that what they import is imported once: hundreds of runs in minutes.

python server.py [MODULE …] imports these modules, then answers lines of JSON on stdin:
{"stage", "argv", …} starts a stage. The answer is the child's process id; once it and its children have ended,
{"status", "events", "said"} follows, the latter what was printed. Faults that may be asked for:
"event"  the number of the file event (open, rename, remove, mkdir; counted from 1) at which it kills itself (SIGKILL)
"batch"  the number of the training batch after which it does
"limit"  the largest file in bytes that it may write
"gate"   a file for which it waits before its first file takes its final name
"""

import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from typing import Any

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir"}


class Watch:
    """Counts file events of this process, kills it at one of them, and waits at the first new name."""

    def __init__(self, last: int | None, gate: str | None) -> None:
        self.count, self.last, self.gate = 0, last, gate

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event in EVENTS:
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
        while event == "os.rename" and self.gate and not os.path.exists(self.gate):
            time.sleep(0.01)


def kill_after_batch(last: int) -> None:
    """Have the training end by SIGKILL after that many batches."""
    from unet.learner import _Watch

    after, count = _Watch.on_train_batch_end, iter(range(1, 10**9))

    def watched(self: Any, batch: int, logs: Any = None) -> None:
        after(self, batch, logs)
        if next(count) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    _Watch.on_train_batch_end = watched


def child(task: dict[str, Any], said: int, answer: int) -> None:
    """Run a stage; its exit status is that of the process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(said, 1)  # a pipe: no limit on the size of files holds for it
    os.dup2(said, 2)
    stage = importlib.import_module(f"{task['stage']}.{task['stage']}")
    if task.get("limit") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["limit"], task["limit"]))
    if task.get("batch"):
        kill_after_batch(task["batch"])
    watch = Watch(task.get("event"), task.get("gate"))
    sys.addaudithook(watch)
    status = stage.main(task["argv"])
    sys.stdout.flush()
    os.write(answer, str(watch.count).encode())
    os._exit(status)


def serve() -> None:
    """Answer until stdin ends."""
    for line in sys.stdin:
        said, say = os.pipe()
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                child(json.loads(line), say, write)
            except BaseException:
                traceback.print_exc()
            os._exit(99)  # an exception that no stage should raise
        os.close(write)
        os.close(say)
        print(pid, flush=True)
        with os.fdopen(said, errors="replace") as pipe:
            text = pipe.read()
        with os.fdopen(read) as pipe:
            events = int(pipe.read() or 0)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "events": events, "said": text}), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    if "tensorflow" in sys.argv:
        sys.modules["tensorflow"].config.run_functions_eagerly(True)  # compiling takes seconds for tiny networks
    serve()
