project = "trio_broadway_kafka"
extensions = ["myst_parser"]
html_theme = "furo"
