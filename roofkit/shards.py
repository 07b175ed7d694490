"""A stage's work in N shares that separate processes do, on one machine or many: Slurm, Kubernetes or Batch arrays."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of a stage's tasks; `index` counts from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}of{self.count}"

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Every `count`-th of the items: neighbours, which cost alike, go to different shards."""
        return list(items[self.index :: self.count])

    def part(self, items: Sequence[Item]) -> list[Item]:
        """Items that follow each other: the parts of all shards in order are the items in order."""
        first, last = (len(items) * i // self.count for i in (self.index, self.index + 1))
        return list(items[first:last])


def share_of(items: Sequence[Item], shard: Shard | None) -> list[Item]:
    """The items that a run works on."""
    return shard.share(items) if shard else list(items)


def shard_of(text: str) -> Shard:
    """An argparse type: I/N, where I counts from 0 or from 1 (N then means what 0 does)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(number) for number in match.groups()) if match else (0, 0)
    if not 0 <= index <= count or count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N")
    return Shard(index % count, count)
