"""`results.json` of a work folder: what was measured, step by step, none of them done twice."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from etils import epath


class Results:
    """`results.json`, written whole after each step; a step whose result is there is not done."""

    def __init__(self, path: epath.Path):
        self._path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def drop(self, *names: str) -> None:
        """Forget results, so that their steps are done again."""
        self.values = {name: one for name, one in self.values.items() if name not in names}

    def step(self, name: str, make: Callable[[], Any], *, group: str = "") -> Any:
        """The result of that name, made now if it is not there. group: of results, by name."""
        known = self.values.get(group, {}) if group else self.values
        if name not in known:
            made = {**known, name: make()}
            values = {**self.values, group: made} if group else made
            text = json.dumps(values, indent=1)
            partial = self._path.with_name(self._path.name + ".partial")
            partial.write_text(text)
            partial.replace(self._path)
            self.values = json.loads(text)
            known = self.values[group] if group else self.values
        return known[name]
