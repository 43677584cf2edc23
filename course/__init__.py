"""The course as a thing to run and to teach: `python -m course` starts it, `python -m course test` tests it."""
