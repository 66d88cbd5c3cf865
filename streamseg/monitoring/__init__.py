"""What shows a running pipeline to others: JSON lines, Prometheus, one line of text."""
