"""`python -m ad_hf` is `ad-hf`, which is what `accelerate launch -m ad_hf` needs."""

from ad_hf.cli import main

if __name__ == "__main__":
    main()
