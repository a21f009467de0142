"""The report: pictures, charts, the page."""
