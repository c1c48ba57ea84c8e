project = "trio_broadway_kafka"
extensions = ["myst_parser"]
html_theme = "furo"
myst_heading_anchors = 2  # so that pages can point into one another
