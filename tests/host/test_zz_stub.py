import threading, time
from pathlib import Path
import pytest
from tests.host.client import ClientError
G={"1":{"class_type":"StubWait","inputs":{"steps":4,"text":""}},"2":{"class_type":"CreateVideo","inputs":{"images":["1",0],"fps":24.0}},"3":{"class_type":"SaveVideo","inputs":{"video":["2",0],"filename_prefix":"a/b","format":"auto","codec":"auto"}}}
@pytest.fixture(scope="session")
def stub(start_host): return start_host("stub", pack=Path("/tmp/stub"))
def g(**k):
    import copy
    x=copy.deepcopy(G); x["1"]["inputs"].update(k); return x
def test_run(stub):
    r=stub.client.run(g())
    assert r.ok, r.error
    print([ (e.type) for e in r.events], r.executed, r.cached, r.progress("1"), r.results(), len(r.previews), r.previews[0].data, r.previews[0].image[:4])
    f=stub.client.file(r.results()[0]); assert f.stat().st_size==len(stub.client.view(r.results()[0]))
    r=stub.client.run(g()); assert r.ok and r.cached=={"1","2","3"}, (r.cached,r.executed)
    print(stub.log[-500:], [str(p) for p in stub.models.values()])
def test_refuse(stub):
    with pytest.raises(ClientError) as e: stub.client.run(g(steps="x"))
    print(e.value, e.value.status)
def test_error(stub):
    r=stub.client.run(g(text="boom")); print(r.error["exception_message"]); assert not r.ok
def test_interrupt(stub):
    p=stub.client.queue(g(steps=100)); 
    t=threading.Timer(0.7, stub.new_client().interrupt); t.start()
    r=stub.client.follow(p); assert r.interrupted; assert stub.client.run(g(steps=2)).ok
    stub.client.free()
