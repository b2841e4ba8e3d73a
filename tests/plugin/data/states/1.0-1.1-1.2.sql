-- The file of 1.0.sql after a start of 1.1 and one of 1.2, none of which reached Docker.
BEGIN TRANSACTION;
CREATE TABLE endpoints (
            id TEXT PRIMARY KEY,
            network_id TEXT NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
            address TEXT NOT NULL,
            mac TEXT NOT NULL,
            host_end TEXT NOT NULL UNIQUE,
            joined INTEGER NOT NULL
        , address_v6 TEXT, mtu INTEGER NOT NULL DEFAULT 0, published TEXT NOT NULL DEFAULT '[]', sandbox TEXT NOT NULL DEFAULT '');
INSERT INTO "endpoints" VALUES('1111111111111111111111111111111111111111111111111111111111111111','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','10.2.1.2/26','02:42:0a:02:01:02','fph111111111111',1,NULL,1450,'[]','');
INSERT INTO "endpoints" VALUES('2222222222222222222222222222222222222222222222222222222222222222','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','10.2.1.3/26','02:42:0a:02:01:03','fph222222222222',0,NULL,1450,'[]','');
INSERT INTO "endpoints" VALUES('3333333333333333333333333333333333333333333333333333333333333333','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','10.2.1.65/26','02:42:0a:02:01:41','fph333333333333',1,NULL,1400,'[]','');
CREATE TABLE ipam_addresses (
            pool_id TEXT NOT NULL REFERENCES ipam_pools (pool_id) ON DELETE CASCADE,
            ip TEXT NOT NULL,
            kind TEXT,
            since REAL NOT NULL,
            rest_order INTEGER, holder_name TEXT, holder_mac TEXT,
            PRIMARY KEY (pool_id, ip),
            CHECK ((kind IS NULL) <> (rest_order IS NULL))
        ) WITHOUT ROWID
        ;
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.0/26','10.2.1.1','gateway',1.79614987298714399339e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.0/26','10.2.1.2','endpoint',1.7961498729886772633e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.0/26','10.2.1.3','endpoint',1.79614987299075269701e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.0/26','10.2.1.4',NULL,1.79614987299237418173e+09,1,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.64/26','10.2.1.65','endpoint',1.79614987299459075925e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.64/26','10.2.1.70','gateway',1.79614987299346613889e+09,NULL,NULL,NULL);
CREATE TABLE ipam_pools (
            pool_id TEXT PRIMARY KEY,
            prefix TEXT NOT NULL,
            lease TEXT NOT NULL,
            cidr TEXT NOT NULL UNIQUE,
            subpool TEXT,
            since REAL NOT NULL
        ) WITHOUT ROWID;
INSERT INTO "ipam_pools" VALUES('flannelpy/10.2.1.0/26','/coreos.com/network','10.2.1.0/24','10.2.1.0/26',NULL,1.79614987298639225965e+09);
INSERT INTO "ipam_pools" VALUES('flannelpy/10.2.1.64/26','/coreos.com/network','10.2.1.0/24','10.2.1.64/26',NULL,1.79614987299297690394e+09);
CREATE TABLE networks (
            id TEXT PRIMARY KEY,
            bridge TEXT NOT NULL UNIQUE,
            pool TEXT NOT NULL UNIQUE,
            gateway TEXT NOT NULL,
            prefix TEXT NOT NULL,
            overlay TEXT NOT NULL,
            device TEXT NOT NULL,
            mtu INTEGER NOT NULL,
            internal INTEGER NOT NULL,
            masquerade INTEGER NOT NULL,
            gateway_mode TEXT NOT NULL
        , pool_v6 TEXT, gateway_v6 TEXT, overlay_v6 TEXT, device_v6 TEXT, chosen_mtu INTEGER, direct INTEGER NOT NULL DEFAULT 0, iface_prefix TEXT NOT NULL DEFAULT 'eth', route_level INTEGER NOT NULL DEFAULT 0, icc INTEGER NOT NULL DEFAULT 1, spoofing INTEGER NOT NULL DEFAULT 0);
INSERT INTO "networks" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','fp-aaaaaaaaaaaa','10.2.1.0/26','10.2.1.1/26','/coreos.com/network','10.2.0.0/16','flannel.1',1450,0,1,'auto',NULL,NULL,NULL,NULL,1450,0,'eth',0,1,0);
INSERT INTO "networks" VALUES('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','fp-bbbbbbbbbbbb','10.2.1.64/26','10.2.1.70/26','/coreos.com/network','10.2.0.0/16','flannel.1',1400,1,1,'auto',NULL,NULL,NULL,NULL,1400,0,'eth',0,1,0);
CREATE TABLE nodes (
            prefix TEXT PRIMARY KEY,
            config TEXT NOT NULL,
            subnet TEXT NOT NULL,
            attrs TEXT NOT NULL,
            mac TEXT NOT NULL
        , mac_v6 TEXT);
INSERT INTO "nodes" VALUES('/coreos.com/network','{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan"}}','10.2.1.0-24','{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"}}','0e:00:00:00:00:01',NULL);
CREATE TABLE peers (
            prefix TEXT NOT NULL REFERENCES nodes (prefix) ON DELETE CASCADE,
            subnet TEXT NOT NULL,
            attrs TEXT NOT NULL,
            PRIMARY KEY (prefix, subnet)
        ) WITHOUT ROWID
        ;
INSERT INTO "peers" VALUES('/coreos.com/network','10.2.9.0-24','{"PublicIP":"192.0.2.9","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:00:00:00:00:99"}}');
CREATE TABLE registry (prefix TEXT PRIMARY KEY, revision INTEGER NOT NULL, config TEXT) WITHOUT ROWID;
CREATE TABLE registry_lease (
            prefix TEXT NOT NULL, name TEXT NOT NULL, attrs TEXT NOT NULL,
            lease_id INTEGER NOT NULL, mod_revision INTEGER NOT NULL, PRIMARY KEY (prefix, name)
        ) WITHOUT ROWID
        ;
CREATE TABLE schema_version (room TEXT PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES('registry',1);
INSERT INTO "schema_version" VALUES('overlay',2);
INSERT INTO "schema_version" VALUES('ipam',2);
INSERT INTO "schema_version" VALUES('driver',3);
CREATE INDEX endpoints_by_network ON endpoints (network_id)
        ;
CREATE UNIQUE INDEX networks_by_pool_v6 ON networks (pool_v6);
COMMIT;
