"""Run `kd` as a module: `python -m kdcli`, or `accelerate launch -m kdcli` in parallel."""

from kdcli.cli.app import main

if __name__ == "__main__":
    main()
