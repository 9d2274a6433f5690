"""Every engine that the template has, in one place: a further one joins each test by its name here."""

ENGINES = ("lightning", "ignite", "fastai", "catalyst")
