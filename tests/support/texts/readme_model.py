"""The whole model of others that a README shows."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def write_readme_model(folder: Path) -> Path:
    """Write the code of `trainer/README.md` to `lstm.py` in `folder`, and give its path back."""
    readme = (ROOT / "trainer" / "README.md").read_text()
    section = readme.partition("## Other recurrent models\n")[2]
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    path = folder / "lstm.py"
    path.write_text(code)
    return path
