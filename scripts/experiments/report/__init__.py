"""The report on a file of results: tables, plots and pages."""
