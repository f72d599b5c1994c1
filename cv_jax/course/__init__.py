"""The course: the claims of the line of classifiers, tested by runs, on one page.

`chapters.CHAPTERS` lists the chapters. A chapter is one file: a claim, the sweeps that test it,
what is measured in their networks, pictures, and a verdict whose thresholds stand in the code
before the runs. `run` makes the missing runs by the commands that the page shows, `evidence` reads
them, and `page` writes what they say.
"""
