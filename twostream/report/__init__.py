"""The report: one self-contained HTML file, and the charts and words it is made of."""
