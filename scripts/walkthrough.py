"""Prints anew the blocks of docs/architecture.md that show what `bitloom` prints.

A comment `<!-- bitloom ARGUMENTS | grep -m1 -AN TEXT -->` stands before such a block; the part from `|` is optional.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"<!-- (bitloom [^|>]*?)(?: \| grep -m1 -A(\d+) (\S+))? -->\n```(\w*)\n.*?```", re.DOTALL)


def printed(cli, match):
    command, after, start, language = match[1], match[2], match[3], match[4]
    text = subprocess.run([cli, *shlex.split(command)[1:]], check=True, capture_output=True, text=True).stdout
    lines = text.strip("\n").split("\n")
    if start:
        first = next((i for i, line in enumerate(lines) if start in line), None)
        if first is None:
            raise SystemExit(f"expected a line with {start} in what is printed by {command}")
        lines = lines[first : first + int(after) + 1]
        command += f" | grep -m1 -A{after} {start}"
    return f"<!-- {command} -->\n```{language}\n" + "\n".join(line.rstrip() for line in lines) + "\n```"


def main():
    page, cli = Path(sys.argv[1]), sys.argv[2]
    page.write_text(BLOCK.sub(lambda match: printed(cli, match), page.read_text()))


if __name__ == "__main__":
    main()
