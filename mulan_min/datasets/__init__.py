"""Label files of public datasets, csv files and folders of music, imported as manifest folders."""
