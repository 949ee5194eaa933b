"""`PYTHONPATH=deploy/grafana python -m generator` writes the dashboards."""

from __future__ import annotations

from pathlib import Path

from generator import written

if __name__ == "__main__":
    folder = Path(__file__).parent.parent / "dashboards"
    folder.mkdir(exist_ok=True)
    for name, text in written().items():
        (folder / name).write_text(text)
