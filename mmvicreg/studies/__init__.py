"""Methods, data regimes and a search budget go in; tables and figures of validated, once-scored runs come out."""
