"""(contract; the data helper fills this in)"""
