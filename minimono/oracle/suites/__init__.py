"""One suite per file: calls, cases with their exact truth, minimono's own answer, mistakes."""
