"""The command ``aiinfra``: one module per noun, each importing its package inside the function."""
