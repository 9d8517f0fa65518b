"""Prints anew the blocks of docs/architecture.md that show what `bitloom` prints.

A comment `<!-- bitloom ARGUMENTS | head N -->` stands before such a block; the part from `|` is optional.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"<!-- (bitloom [^|>]*?)(?: \| head (\d+))? -->\n```(\w*)\n.*?```", re.DOTALL)


def printed(cli, match):
    command, limit, language = match[1], match[2], match[3]
    text = subprocess.run([cli, *shlex.split(command)[1:]], check=True, capture_output=True, text=True).stdout.strip(
        "\n"
    )
    lines = text.split("\n")
    if limit and len(lines) > int(limit):
        lines = [*lines[: int(limit)], "…"]
    tail = f" | head {limit}" if limit else ""
    return f"<!-- {command}{tail} -->\n```{language}\n" + "\n".join(line.rstrip() for line in lines) + "\n```"


def main():
    page, cli = Path(sys.argv[1]), sys.argv[2]
    page.write_text(BLOCK.sub(lambda match: printed(cli, match), page.read_text()))


if __name__ == "__main__":
    main()
