# SPDX-License-Identifier: GPL-3.0-or-later
"""Items in the order of their references: pure graph work."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from store.errors import StoreError

Node = TypeVar("Node", bound=str)


def topological_order(references: Mapping[Node, Iterable[Node]]) -> list[Node]:
    """Order items so that each comes after all it refers to.

    Args:
        references: What each item refers to. Itself and whatever is no key
            count for nothing.

    Raises:
        StoreError: Some items refer to each other in a circle; one is named.
    """
    ordered: list[Node] = []
    done: set[Node] = set()
    for start in references:
        if start not in done:
            _visit(start, references, done, ordered)
    return ordered


def _visit(
    start: Node, references: Mapping[Node, Iterable[Node]], done: set[Node], ordered: list[Node]
) -> None:
    """Append `start` after all it leads to, depth first, without recursion."""
    open_nodes = {start}
    stack = [(start, iter(references[start]))]
    while stack:
        node, successors = stack[-1]
        for successor in successors:
            if successor == node or successor in done or successor not in references:
                continue
            if successor in open_nodes:
                raise StoreError(
                    f"cycle detected in the references of `{successor}'", reason="cycle"
                )
            open_nodes.add(successor)
            stack.append((successor, iter(references[successor])))
            break
        else:
            stack.pop()
            open_nodes.discard(node)
            done.add(node)
            ordered.append(node)
