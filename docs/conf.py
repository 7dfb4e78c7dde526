"""How Sphinx builds the documentation: `make docs`. Nothing is fetched, then or by the reader."""

import re

import minimono
from minimono.engine import functional

project = "minimono"
author = "minimono contributors"
copyright = "2026, minimono contributors"
release = minimono.__version__

extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinxcontrib.katex",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py", "gallery/*.zip", "gallery/*.md5"]
suppress_warnings = ["config.cache"]  # the gallery's options below are functions

# The order of the tutorial.
DEMOS = [
    "world", "task_language", "task_images", "task_physics", "l2e", "preference",
    "inhibit_or_encourage", "circuits", "emergence",
]


def gallery_order(file):
    return DEMOS.index(file.removesuffix(".py"))


sphinx_gallery_conf = {
    "examples_dirs": ["../demos"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": gallery_order,
    "reset_argv": lambda gallery_conf, script_vars: ["--quick"],
    "write_computation_times": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "plot_gallery": "True",
}

# Pages are plain Markdown; the test run executes their fences (see conftest.py), not the build.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

smartquotes = False  # quotes and dashes as written: many are code
html_theme = "furo"
html_title = "minimono"
html_static_path = ["_static"]
html_css_files = ["wide.css"]  # a formula wider than its page scrolls; it is not cut
katex_css_path = "katex/katex.min.css"  # the JavaScript comes with the extension

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures show defaults; docstrings say shapes and units
autodoc_default_options = {"members": True}


def plain_docstring(app, what, name, obj, options, lines):
    """Our docstrings are plain text to be read in the source: show them as they stand.

    Paragraphs become paragraphs, examples get coloured, and all that is indented or listed
    (formulas, tables, shapes) keeps its lines and columns.
    """
    if lines and lines[0].startswith("Alias for field number"):  # a NamedTuple's, says nothing
        lines.clear()
    paragraphs = "\n".join(lines).strip("\n").split("\n\n")
    lines.clear()
    for paragraph in paragraphs:
        text = paragraph.strip("\n").split("\n")
        if text[0].startswith(">>>"):
            lines += [".. code-block:: pycon", "", *("   " + line for line in text), ""]
        elif any(re.match(r" |[-*] |\d\. ", line) for line in text):
            lines += [".. code-block:: text", "", *("   " + line for line in text), ""]
        else:
            lines += [prose_as_rst(" ".join(text)), ""]


def prose_as_rst(text):
    """`code` as reStructuredText's ``code``; its other signs mean nothing special in our prose."""
    pieces = re.split(r"(`[^`]+`)", text)
    pieces[0::2] = [re.sub(r"([\\*|_`])", r"\\\1", piece) for piece in pieces[0::2]]
    pieces[1::2] = [rf"\ `{piece}`\ " for piece in pieces[1::2]]
    return "".join(pieces)


def document_plain_functions():
    """Primitives and functions with kernels are objects around a plain function: show that one."""
    for name in functional.__all__:
        shown = getattr(functional, name)
        shown = getattr(shown, "reading", getattr(shown, "forward", shown))
        setattr(functional, name, shown)


def setup(app):
    # After the gallery has run the demos (priority 500), which call these functions.
    app.connect("builder-inited", lambda app: document_plain_functions(), priority=900)
    app.connect("autodoc-process-docstring", plain_docstring)
