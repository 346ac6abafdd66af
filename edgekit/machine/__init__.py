"""What machine this is: CPU, GPU and installed packages; and how to do something in a process of its own."""
