-- A state file as flannelpy 1.2 wrote it, dumped by sqlite3: data for test_upgrades.py.
BEGIN TRANSACTION;
CREATE TABLE endpoints (
            id TEXT PRIMARY KEY,
            network_id TEXT NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
            address TEXT NOT NULL,
            mac TEXT NOT NULL,
            host_end TEXT NOT NULL UNIQUE,
            joined INTEGER NOT NULL
        , address_v6 TEXT, mtu INTEGER NOT NULL DEFAULT 0, published TEXT NOT NULL DEFAULT '[]', sandbox TEXT NOT NULL DEFAULT '');
INSERT INTO "endpoints" VALUES('1111111111111111111111111111111111111111111111111111111111111111','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','10.2.1.2/26','02:42:0a:02:01:02','fph111111111111',1,NULL,1430,'[]','0b6f22c6b6721a28');
INSERT INTO "endpoints" VALUES('2222222222222222222222222222222222222222222222222222222222222222','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','10.2.1.3/26','02:42:0a:02:01:03','fph222222222222',0,NULL,1430,'[]','');
INSERT INTO "endpoints" VALUES('3333333333333333333333333333333333333333333333333333333333333333','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','10.2.1.65/26','02:42:0a:02:01:41','fph333333333333',1,NULL,1400,'[]','0b6f22c6b6721a28');
INSERT INTO "endpoints" VALUES('4444444444444444444444444444444444444444444444444444444444444444','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','10.2.1.130/26','02:42:0a:02:01:82','fph444444444444',1,'fd00:2:0:1::2/80',1430,'[]','0b6f22c6b6721a28');
INSERT INTO "endpoints" VALUES('5555555555555555555555555555555555555555555555555555555555555555','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','10.2.1.194/26','02:42:0a:02:01:c2','fph555555555555',1,NULL,1430,'[["tcp", "0.0.0.0", 8080, "10.2.1.194", 80]]','0b6f22c6b6721a28');
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
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.0/26','10.2.1.1','gateway',1.79614986045281171803e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.0/26','10.2.1.2','endpoint',1.79614986045462679867e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.0/26','10.2.1.3','endpoint',1.796149860457775116e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.0/26','10.2.1.4',NULL,1.7961498604602761269e+09,1,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.128/26','10.2.1.129','gateway',1796149860.46676,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.128/26','10.2.1.130','endpoint',1.79614986046968936922e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.192/26','10.2.1.193','gateway',1.79614986047445774081e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.192/26','10.2.1.194','endpoint',1.79614986047585225106e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.64/26','10.2.1.65','endpoint',1.79614986046333742139e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/10.2.1.64/26','10.2.1.70','gateway',1.7961498604617049694e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/fd00:2:0:1::/80','fd00:2:0:1::1','gateway',1.79614986046805715563e+09,NULL,NULL,NULL);
INSERT INTO "ipam_addresses" VALUES('flannelpy/fd00:2:0:1::/80','fd00:2:0:1::2','endpoint',1.79614986047022438049e+09,NULL,NULL,NULL);
CREATE TABLE ipam_pools (
            pool_id TEXT PRIMARY KEY,
            prefix TEXT NOT NULL,
            lease TEXT NOT NULL,
            cidr TEXT NOT NULL UNIQUE,
            subpool TEXT,
            since REAL NOT NULL
        ) WITHOUT ROWID;
INSERT INTO "ipam_pools" VALUES('flannelpy/10.2.1.0/26','/coreos.com/network','10.2.1.0/24','10.2.1.0/26',NULL,1.7961498604520308971e+09);
INSERT INTO "ipam_pools" VALUES('flannelpy/10.2.1.128/26','/coreos.com/network','10.2.1.0/24','10.2.1.128/26',NULL,1.7961498604661037922e+09);
INSERT INTO "ipam_pools" VALUES('flannelpy/10.2.1.192/26','/coreos.com/network','10.2.1.0/24','10.2.1.192/26',NULL,1.79614986047383618349e+09);
INSERT INTO "ipam_pools" VALUES('flannelpy/10.2.1.64/26','/coreos.com/network','10.2.1.0/24','10.2.1.64/26',NULL,1.79614986046107602121e+09);
INSERT INTO "ipam_pools" VALUES('flannelpy/fd00:2:0:1::/80','/coreos.com/network','fd00:2:0:1::/64','fd00:2:0:1::/80',NULL,1.79614986046744298936e+09);
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
INSERT INTO "networks" VALUES('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','fp-aaaaaaaaaaaa','10.2.1.0/26','10.2.1.1/26','/coreos.com/network','10.2.0.0/16','flannel.1',1430,0,1,'auto',NULL,NULL,NULL,NULL,NULL,0,'eth',0,1,0);
INSERT INTO "networks" VALUES('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','fp-bbbbbbbbbbbb','10.2.1.64/26','10.2.1.70/26','/coreos.com/network','10.2.0.0/16','flannel.1',1400,1,1,'auto',NULL,NULL,NULL,NULL,1400,0,'eth',1,1,0);
INSERT INTO "networks" VALUES('cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','fp-cccccccccccc','10.2.1.128/26','10.2.1.129/26','/coreos.com/network','10.2.0.0/16','flannel.1',1430,0,1,'docker','fd00:2:0:1::/80','fd00:2:0:1::1/80','fd00:2::/48','flannel-v6.1',NULL,0,'eth',2,1,0);
INSERT INTO "networks" VALUES('dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','br-mine','10.2.1.192/26','10.2.1.193/26','/coreos.com/network','10.2.0.0/16','flannel.1',1430,0,1,'native',NULL,NULL,NULL,NULL,NULL,0,'net',3,0,1);
CREATE TABLE nodes (
            prefix TEXT PRIMARY KEY,
            config TEXT NOT NULL,
            subnet TEXT NOT NULL,
            attrs TEXT NOT NULL,
            mac TEXT NOT NULL
        , mac_v6 TEXT);
INSERT INTO "nodes" VALUES('/coreos.com/network','{"EnableIPv6": true, "Network": "10.2.0.0/16", "IPv6Network": "fd00:2::/48", "Backend": {"Type": "vxlan"}}','10.2.1.0-24&fd00:2:0:1::-64','{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"},"BackendV6Data":{"VNI":1,"VtepMAC":"0e:00:00:00:00:02"}}','0e:00:00:00:00:01','0e:00:00:00:00:02');
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
