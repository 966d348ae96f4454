raise RuntimeError("this module can't be imported")
