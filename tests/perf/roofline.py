"""What kernels reach of the memory's bandwidth, drawn under its roof."""

COLOURS = {"bitloom": "#1f6f8b", "torch": "#c9c9c9", "compile": "#8a9a5b", "liger": "#e0a458"}


def draw(rows, path):
    """Writes path.png and path.svg. rows: as train.py measures them; the roof is the copy of the same run."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    who = [name for name in COLOURS if any(name in row["seconds"] for row in rows)]
    labels = [f"{row['op']} {row['pass']}\n{row['size']} {row['dtype']}" for row in rows]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.5 * len(rows)), layout="constrained")
    height = 0.8 / len(who)
    for i, name in enumerate(who):
        reached = [row["bytes"] / row["seconds"].get(name, float("inf")) / 1e9 for row in rows]
        axes.barh([y + i * height for y in range(len(rows))], reached, height, color=COLOURS[name], label=name)
    for y, row in enumerate(rows):
        roof = row["bytes"] / row["seconds"]["copy"] / 1e9
        axes.plot([roof, roof], [y - height / 2, y + 0.8 - height / 2], color="black", linewidth=1.5)
    axes.plot([], [], color="black", label="copy: the roof")
    axes.set_yticks([y + 0.4 - height / 2 for y in range(len(rows))], labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("minimal bytes / time, GB/s")
    figure.legend(loc="outside upper right", ncols=4, fontsize=8)
    for kind in ("png", "svg"):
        figure.savefig(f"{path}.{kind}", dpi=150)
    pyplot.close(figure)
