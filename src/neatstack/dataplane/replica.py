import json, os, socket, sys
def main(text):
    c=json.loads(text)
    s=socket.socket(fileno=c["control"])
    s.send(b'{"ready": true}')
    while True:
        data,fds,fl,_=socket.recv_fds(s,65536,32)
        if not data: return
        m=json.loads(data); print("R",c["replica"],m,fds,file=sys.stderr,flush=True)
        for f in fds: os.close(f)
        s.send(json.dumps({"id":m["id"],"ok":True}).encode())
