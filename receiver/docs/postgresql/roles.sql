-- Creates the database of Kling Receiver with two roles: its owner, and one that only reads. Run it once as a superuser:
--
--   KLING_PASSWORD=... KLING_READER_PASSWORD=... psql --file roles.sql
--
-- For other names add: --set owner=kling --set reader=kling_reader --set database=kling

\set ON_ERROR_STOP on
\getenv password KLING_PASSWORD
\getenv reader_password KLING_READER_PASSWORD
\if :{?password}
\else
\warn 'Set KLING_PASSWORD to the password of the role that the service uses.'
\endif
\if :{?reader_password}
\else
\warn 'Set KLING_READER_PASSWORD to the password of the role that only reads.'
\endif
\if :{?owner}
\else
\set owner kling
\endif
\if :{?reader}
\else
\set reader kling_reader
\endif
\if :{?database}
\else
\set database kling
\endif

CREATE ROLE :"owner" LOGIN PASSWORD :'password' CONNECTION LIMIT 100;
CREATE ROLE :"reader" LOGIN PASSWORD :'reader_password' CONNECTION LIMIT 20;
CREATE DATABASE :"database" OWNER :"owner" ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO :"reader";

\connect :"database"
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO :"owner";
GRANT USAGE ON SCHEMA public TO :"reader";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT SELECT ON TABLES TO :"reader";
