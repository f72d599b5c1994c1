"""What a sweep found: tables, figures and comparisons, from the files that its trials wrote."""
