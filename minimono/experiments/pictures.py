"""How pictures look and how they are saved: one set of colours and settings for all of them.

The colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, MUTED, GREY = "#1b1b1b", "#6b6b6b", "#808080"
BLUE, ORANGE, GREEN, RED, PINK = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"


def style(size: float, *, on_dark: bool = False) -> Any:
    """Return Matplotlib's settings for a picture with letters of this size.

    on_dark: the picture is transparent, in a grey that reads on white and on black.
    """
    ink, muted = (GREY, GREY) if on_dark else (INK, MUTED)
    return {
        "font.size": size, "axes.titlesize": size, "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
        "axes.edgecolor": muted, "axes.labelcolor": ink, "axes.titlecolor": ink,
        "text.color": ink, "xtick.color": ink, "ytick.color": ink, "lines.linewidth": 1.6,
        "legend.frameon": False, "savefig.transparent": on_dark, "svg.hashsalt": "minimono",
    }


DEMO = style(9.5) | {"figure.constrained_layout.use": True}  # of the scripts in demos/


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write NAME.png and NAME.svg; return the SVG, which depends on the picture alone."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white")
    figure.set_layout_engine("none")  # it has found the places; finding them takes longest
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue()
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    return svg


def keep(figure: Figure, folder: Path, name: str) -> None:
    """Save a demo's picture, and print where it is."""
    save(figure, folder, name)
    print(f"picture: {folder / name}.png")
