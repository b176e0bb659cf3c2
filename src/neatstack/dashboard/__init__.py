"""`neat dashboard`: a web page that shows a stack while it runs, and lets one act on it."""
