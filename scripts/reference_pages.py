"""Writes a page of docs/reference from what the command line says: reference_pages.py PAGE CLI OUTPUT."""

import json
import re
import subprocess
import sys
from pathlib import Path


def says(cli: str, *arguments: str) -> str:
    return subprocess.run([cli, *arguments], check=True, capture_output=True, text=True).stdout.strip("\n")


def command_line(cli: str) -> str:
    """The page of every command, as --help prints it."""
    overview = says(cli, "--help")
    commands = re.findall(r"^  ([\w-]+)  ", overview, re.MULTILINE)
    sections = [f"## {name}\n\n```\n{says(cli, name, '--help')}\n```" for name in commands]
    return "\n\n".join(["# The command line", f"```\n{overview}\n```", *sections])


def default_of(parameter: dict) -> str:
    default = parameter.get("default", "")
    text = f"{default:.6g}" if isinstance(default, float) else str(default).lower() if default != "" else ""
    return f"{text}, of {', '.join(parameter['choices'])}" if "choices" in parameter else text


def kernel_section(kernel: dict) -> str:
    """A table of the parameters in call order; the dtypes are those of every variant, in order."""
    variants = kernel["variants"]
    rows = []
    for column in zip(*(variant["parameters"] for variant in variants)):
        first = column[0]
        dtypes = dict.fromkeys(parameter.get("dtype", "") for parameter in column)
        kind = "output" if first.get("output") else "input" if first["kind"] == "view" else first["kind"]
        shape = " × ".join(first.get("shape", []))
        rows.append(f"| `{first['name']}` | {kind} | {' '.join(dtypes)} | {shape} | {default_of(first)} |")
    table = "\n".join(["| parameter | kind | dtypes | shape | default |", "|---|---|---|---|---|", *rows])
    return f"## {kernel['name']}\n\n{kernel['summary']}\n\n{table}"


def kernels(cli: str) -> str:
    """Every kernel that ships."""
    sections = [kernel_section(kernel) for kernel in json.loads(says(cli, "list", "--json"))]
    return "\n\n".join(["# The kernels", *sections])


def main() -> None:
    page, cli, output = sys.argv[1:]
    text = {"command-line": command_line, "kernels": kernels}[page](cli)
    Path(output).write_text(f"<!-- Written by the build (./dev docs): edit the sources it quotes. -->\n\n{text}\n")


if __name__ == "__main__":
    main()
