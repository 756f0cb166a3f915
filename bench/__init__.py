"""Side-by-side benchmarks. Figures in the docs come from here; tests never measure time."""
