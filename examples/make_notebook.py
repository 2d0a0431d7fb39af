"""Write `study.ipynb` from `study.py`: its cells are what stands between the lines that begin with `# %%`."""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent


def notebook(code: str) -> str:
    """The notebook of a program, without outputs."""
    cells = []
    for number, (kind, body) in enumerate(re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", code, re.M | re.S)):
        text = re.sub(r"^# ?", "", body, flags=re.M) if kind else body
        cell = {"cell_type": "markdown" if kind else "code", "id": f"cell-{number}", "metadata": {}}
        cell["source"] = text.strip("\n").splitlines(keepends=True)
        cells.append(cell if kind else cell | {"execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (HERE / "study.ipynb").write_text(notebook((HERE / "study.py").read_text(encoding="utf-8")), encoding="utf-8")
