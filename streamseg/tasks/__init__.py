"""Still pictures: one object per kind of model, loaded once and called with one picture at a time."""
