"""PostgreSQL: the bridge to asyncpg, SQL files, migrations, repositories, the embedded server."""
