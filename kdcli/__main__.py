"""`python -m kdcli`: the same command as `kd`, and what `accelerate launch -m kdcli` starts."""

from kdcli.cli.app import main

if __name__ == "__main__":
    main()
