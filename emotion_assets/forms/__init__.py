"""Forms of files that somebody else wrote: one file per form, found by the registry; a new form is a new file here."""
