from lightning_gradood.cli import main

main()  # classes defined in the module that runs as __main__ are no subclasses, so it holds nothing else
