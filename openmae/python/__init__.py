"""The commands as functions: settings as keywords, and what each job leaves as something to go on with."""
