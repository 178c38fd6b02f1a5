//! Examples of every command, to be copied.

/// Examples in the help of the program itself.
pub(super) const FIRST: [&str; 6] =
    ["gantry up", "gantry app create shop", "gantry status", "gantry logs shop -f", "gantry why shop", "gantry docs"];

/// Examples by the command's path.
#[rustfmt::skip]
pub(super) const EXAMPLES: &[(&str, &[&str])] = &[
    ("up", &[
        "gantry up",
        "gantry up --domain apps.example.com --https 0.0.0.0:443 --tls-cert /etc/gantry/cert.pem --tls-key /etc/gantry/key.pem",
        "gantry up --data /srv/gantry --host-ports 5432,8125/udp",
    ]),
    ("down", &["gantry down", "gantry down --data /srv/gantry"]),
    ("server", &["gantry server --store etcd://10.0.0.5:2379"]),
    ("agent", &["gantry agent --machine web01"]),
    ("router", &["gantry router --http 0.0.0.0:80"]),
    ("status", &["gantry status", "gantry status --json"]),
    ("app create", &[
        "gantry app create shop",
        "gantry app create shop --base debian --branch production --host www.example.com",
    ]),
    ("app ls", &["gantry app ls"]),
    ("app show", &["gantry app show shop"]),
    ("app rename", &["gantry app rename shop store"]),
    ("app base", &["gantry app base shop debian-13"]),
    ("app branch", &["gantry app branch shop production"]),
    ("app host", &[
        "gantry app host shop www.example.com shop.example.com",
        "gantry app host shop --rm www.example.com",
        "gantry app host shop",
    ]),
    ("app proxies", &[
        "gantry app proxies shop 10.0.0.0/8 2001:db8::/32",
        "gantry app proxies shop --none",
        "gantry app proxies shop",
    ]),
    ("app destroy", &["gantry app destroy shop --confirm shop"]),
    ("deploy", &[
        "gantry deploy shop --image registry.example/team/shop:1.2 --port 3000",
        "gantry deploy shop --image shop:1.2 --hold",
        "gantry deploy db --image docker.io/library/postgres:16 --volume data:/var/lib/postgresql/data --port 5432",
    ]),
    ("releases", &["gantry releases shop"]),
    ("rollback", &["gantry rollback shop", "gantry rollback shop v12 --wait"]),
    ("promote", &["gantry promote shop"]),
    ("abort", &["gantry abort shop"]),
    ("ps", &["gantry ps", "gantry ps shop"]),
    ("scale", &["gantry scale shop web=3 worker=2", "gantry scale shop worker=0"]),
    ("pause", &["gantry pause shop"]),
    ("resume", &["gantry resume shop"]),
    ("maintenance on", &["gantry maintenance on shop --message 'back at noon'"]),
    ("maintenance off", &["gantry maintenance off shop"]),
    ("limit", &["gantry limit shop --rate 100 --concurrent 50", "gantry limit shop"]),
    ("config set", &[
        "gantry config set shop LOG_LEVEL=debug COLOR=blue",
        "gantry config set shop API_KEY=- <key.txt",
    ]),
    ("config get", &["gantry config get shop LOG_LEVEL"]),
    ("config unset", &["gantry config unset shop LOG_LEVEL"]),
    ("config ls", &["gantry config ls shop"]),
    ("logs", &[
        "gantry logs shop",
        "gantry logs shop -f --role worker",
        "gantry logs shop --since 15m --grep error -n 1000",
    ]),
    ("exec", &[
        "gantry exec shop",
        "gantry exec shop --instance worker-1 -- ps aux",
        "gantry exec -i db --instance db-1 -- psql -U postgres <dump.sql",
    ]),
    ("run", &["gantry run shop -- rake db:seed", "gantry run -i shop -- python3 - <script.py", "gantry run db --volume data -- du -sh /var/lib"]),
    ("volume ls", &["gantry volume ls", "gantry volume ls db"]),
    ("volume show", &["gantry volume show db data"]),
    ("volume rm", &["gantry volume rm db data", "gantry volume rm db data --force"]),
    ("volume export", &["gantry volume export db data -o data.tar.zst", "gantry volume export db data | tar -t"]),
    ("volume import", &["gantry volume import db data data.tar.zst", "gantry volume import db data --replace <data.tar"]),
    ("volume snapshot create", &["gantry volume snapshot db data create before-upgrade"]),
    ("volume snapshot ls", &["gantry volume snapshot db data ls"]),
    ("volume snapshot rm", &["gantry volume snapshot db data rm before-upgrade"]),
    ("volume snapshot restore", &["gantry volume snapshot db data restore before-upgrade"]),
    ("why", &["gantry why", "gantry why shop", "gantry why shop shop.v12.web-1"]),
    ("base create", &["gantry base create debian --from examples/base.toml"]),
    ("base import", &[
        "gantry base import python docker.io/library/python:3.12-slim",
        "gantry base import tools tools.tar",
    ]),
    ("base ls", &["gantry base ls"]),
    ("base rm", &["gantry base rm debian-12"]),
    ("cluster policy get", &["gantry cluster policy get"]),
    ("cluster policy set", &[
        "gantry cluster policy set trusted-proxies=10.0.0.0/8,192.0.2.7",
        "gantry cluster policy set trusted-proxies=",
    ]),
    ("token create", &[
        "gantry token create ci --deploy shop --expires 90d",
        "gantry token create dashboard --read >token",
        "gantry token create ann --admin",
    ]),
    ("token ls", &["gantry token ls"]),
    ("token revoke", &["gantry token revoke ci"]),
    ("events", &["gantry events", "gantry events shop"]),
    ("explain", &["gantry explain", "gantry explain E_APP_NOT_FOUND"]),
    ("docs", &["gantry docs", "gantry docs apps", "gantry docs howto-django | less"]),
    ("store check", &["gantry store check", "gantry store check --data /srv/gantry"]),
    ("check", &["gantry check", "gantry check --repair"]),
    ("backup", &["gantry backup /backup/gantry.tar"]),
    ("restore", &[
        "gantry restore /backup/gantry.tar",
        "gantry restore --skip-damaged --data /srv/gantry /backup/gantry.tar",
    ]),
    ("completions", &["gantry completions bash >/etc/bash_completion.d/gantry"]),
];
